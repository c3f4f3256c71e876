from ellm.kernels._portable import ADDRESSES as ADDRESSES
from ellm.kernels._portable import ENTER as ENTER
from ellm.kernels._portable import FETCHES as FETCHES
from ellm.kernels._portable import LEAVE as LEAVE
from ellm.kernels._portable import SIZES as SIZES
from ellm.kernels._portable import encode as encode
from ellm.kernels._portable import fetch_into_l1 as fetch_into_l1
from ellm.kernels._portable import run as run
