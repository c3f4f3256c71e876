"""A server under load for a moment: clients leave and are killed, its disk is full, a crowd comes."""

from soak import Soak


def test_a_server_under_load_answers_right_and_gives_everything_back(tmp_path):
    soak = Soak(tmp_path, seed=0, processes=2, each=4, known=8, often=0.2, connections=300)
    soak.run(lambda seconds, right: seconds < 60 and (right < 40 or not soak.disturbed))
    assert not soak.faults, "\n".join(soak.report())
    assert soak.ended["right"] and soak.disturbed
