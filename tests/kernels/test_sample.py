"""sample against its reference, and against the distribution that it must draw from."""

import numpy as np
from harness import Case, each_isa, for_cases
from hypothesis import strategies as st

from ellm.kernels import reference
from ellm.kernels.contract import SAMPLING, TOKEN_NUMBER

seeds = st.integers(0, 2**63)
OFF = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "top_k": 0, "seed": 0, "counter": 0}


def make(
    logits: np.ndarray, history: np.ndarray | None = None, *, mask=None, bias=None, top=0, given=(), **how
) -> Case:
    """Each row of logits [rows, vocab] sampled in the same way, at counters that go up by one.

    `mask` are the tokens that are allowed, `bias` pairs of a token and a number, `given` tokens of the first rows.
    """
    rows, vocab = logits.shape
    case = Case("sample", rows)
    case.args["vocab"] = vocab
    case.step.logits = case.memory(logits.astype(np.float32)).view(logits.shape, np.float32)
    case.step.sampling = np.zeros(rows, SAMPLING)
    for name, value in (OFF | how).items():
        case.step.sampling[name] = value
    case.step.sampling["counter"] += np.arange(rows)
    if history is not None:
        case.step.sampling["history"] = case.memory(history.astype(np.int32)).address
        case.step.sampling["history_len"] = len(history)
    if mask is not None:
        bits = np.zeros(-(-vocab // 32) * 32, bool)
        bits[mask] = True
        case.step.sampling["mask"] = case.memory(np.packbits(bits, bitorder="little")).address
    if bias is not None:
        case.step.sampling["bias"] = case.memory(np.array(bias, TOKEN_NUMBER)).address
        case.step.sampling["bias_len"] = len(bias)
    for row, token in enumerate(given):
        case.step.sampling["given"][row] = case.memory(np.array([token], np.int32)).address
    if top:
        listed = case.written("top", (rows, top), TOKEN_NUMBER)
        case.step.sampling["top"] = listed.ctypes.data + listed.strides[0] * np.arange(rows)
        case.step.sampling["top_len"] = top
    case.step.sampled = case.written("sampled", (rows,), np.int32)
    case.step.logprob = case.written("logprob", (rows,), np.float32)
    return case


def allowed(logits: np.ndarray, how: np.void) -> set[int]:
    """The tokens that may be drawn if p and its sums are only right to 1e-5."""
    w = reference.adjusted(np.where(np.isnan(logits), -np.inf, logits).astype(np.float64), how)
    found = set()
    for error in (-1e-5, 0, 1e-5):
        near = how.copy()
        near["top_p"] += error if how["top_p"] < 1 else 0
        near["min_p"] = min(1.0, how["min_p"] * (1 + error))
        order, p = reference.candidates(w, near)
        end = np.cumsum(p) / p.sum()
        u = reference.uniform(int(how["seed"]), int(how["counter"]))
        found |= set(order[(end - p / p.sum() - 1e-5 <= u) & (u <= end + 1e-5)].tolist())
    return found


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = np.where(np.isnan(x), -np.inf, x).astype(np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


@for_cases(
    60,
    rows=st.integers(1, 5),
    vocab=st.sampled_from([1, 2, 17, 100, 1000, 3001]),
    ties=st.booleans(),
    penalty=st.sampled_from([1.0, 1.0, 1.3, 0.7]),
    temperature=st.sampled_from([0.0, 1e-6, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 7, 100, 5000]),
    top_p=st.sampled_from([1.0, 1.0, 0.0, 0.5, 0.95, 0.9999]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    seed=seeds,
)
def test_sample(isa, rows, vocab, ties, penalty, temperature, top_k, top_p, min_p, seed):
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((rows, vocab))).astype(np.float32)
    if ties:
        logits = np.round(logits)
        logits[:, vocab // 2 + 1 :: 5] = np.nan
        logits[:, vocab // 2 + 2 :: 7] = -np.inf
    history = random.integers(-2, vocab + 2, 30)
    how = {"temperature": temperature, "top_p": top_p, "min_p": min_p, "repeat_penalty": penalty, "top_k": top_k}
    case = make(logits, history, seed=seed, counter=int(random.integers(0, 1000)), **how)
    native, expected = case.run(isa), case.run(None)
    for row in range(rows):
        token = int(native["sampled"][row])
        if temperature < 1e-5:
            assert token == expected["sampled"][row]
        else:
            assert token in allowed(logits[row], case.step.sampling[row])
        np.testing.assert_allclose(native["logprob"][row], log_softmax(logits[row])[token], rtol=1e-6, atol=2e-5)
        np.testing.assert_allclose(
            expected["logprob"][row], log_softmax(logits[row])[expected["sampled"][row]], rtol=1e-6
        )


eighths = st.integers(-16, 16).map(lambda n: n / 8)  # so that sums are exact


@for_cases(
    60,
    vocab=st.sampled_from([1, 31, 32, 33, 100, 3001]),
    allowed_tokens=st.none() | st.integers(1, 40),
    biased=st.integers(0, 50),
    presence=st.just(0.0) | eighths,
    frequency=st.just(0.0) | eighths,
    penalty=st.sampled_from([1.0, 1.0, 2.0, 0.5]),
    temperature=st.sampled_from([0.0, 1.0]),
    top=st.integers(0, 20),
    seed=seeds,
)
def test_what_comes_before_the_temperature(
    isa, vocab, allowed_tokens, biased, presence, frequency, penalty, temperature, top, seed
):
    random = np.random.default_rng(seed)
    logits = (np.round(40 * random.standard_normal((3, vocab))) / 8).astype(np.float32)
    logits[:, 5::7] = np.nan
    logits[:, 6::7] = -np.inf
    mask = None if allowed_tokens is None else random.integers(0, vocab, allowed_tokens)
    tokens = random.permutation(vocab)[:biased]
    bias = [(token, number / 8) for token, number in zip(tokens, random.integers(-800, 800, len(tokens)), strict=True)]
    history = random.integers(-2, min(vocab, 30) + 2, 60)
    how = {"presence_penalty": presence, "frequency_penalty": frequency, "repeat_penalty": penalty, "prompt_len": 20}
    more = {"temperature": temperature, "seed": seed, "top": min(top, vocab)}
    case = make(logits, history, mask=mask, bias=bias, **how, **more)
    native, expected = case.run(isa), case.run(None)
    for row in range(3):
        token = int(native["sampled"][row])
        if temperature == 0:
            assert token == expected["sampled"][row]
        else:
            assert token in allowed(logits[row], case.step.sampling[row])
    if more["top"]:
        np.testing.assert_array_equal(native["top"]["token"], expected["top"]["token"])
        np.testing.assert_allclose(native["top"]["number"], expected["top"]["number"], rtol=1e-6, atol=2e-5)
        assert (np.diff(native["top"]["number"]) <= 0).all()


@each_isa
def test_only_what_is_allowed_is_drawn(isa):
    logits = np.random.default_rng(0).standard_normal((64, 200))
    some = np.array([3, 31, 32, 64, 199])
    for how in ({}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.5}, {"temperature": 0.0}):
        drawn = make(logits, mask=some, **how).run(isa)["sampled"]
        assert set(drawn.tolist()) <= {*some.tolist()}
    assert (make(logits, mask=[77], seed=5).run(isa)["sampled"] == 77).all()
    assert (make(logits, mask=some, bias=[(5, 100.0), (32, 100.0)]).run(isa)["sampled"] == 32).all()


@each_isa
def test_penalties_count_the_answer_alone(isa):
    logits = np.array([[4.0, 3.5, 3.0, 0.0]])
    history = np.array([1, 1, 1, 0, 0, 1])  # of which the prompt has the first three
    greedy = lambda **how: int(make(logits, history, temperature=0.0, prompt_len=3, **how).run(isa)["sampled"][0])  # noqa: E731
    assert greedy() == 0
    assert greedy(frequency_penalty=0.375) == 0  # 4 - 0.75 and 3.5 - 0.375
    assert greedy(frequency_penalty=0.5625) == 2  # 2.875 and 2.9375
    assert greedy(presence_penalty=0.9375) == 0  # 3.0625, however often it is there
    assert greedy(presence_penalty=1.125) == 2
    assert greedy(presence_penalty=-2.0) == 0


@each_isa
def test_a_given_token_is_taken_with_its_log_probability(isa):
    logits = np.random.default_rng(1).standard_normal((4, 50))
    case = make(logits, given=[7, 0, 49], temperature=0.0, mask=[20], top=3)
    out = case.run(isa)
    assert out["sampled"].tolist() == [7, 0, 49, 20]
    expected = [log_softmax(row)[token] for row, token in zip(logits.astype(np.float32), out["sampled"], strict=True)]
    np.testing.assert_allclose(out["logprob"], expected, atol=2e-6)
    assert out["top"]["token"].tolist() == [np.argsort(-row)[:3].tolist() for row in logits]


@each_isa
def test_the_chosen_token_has_the_log_probability_that_is_listed(isa):
    """Bit for bit, whatever changes the odds."""
    logits = 3 * np.random.default_rng(2).standard_normal((20, 999))
    out = make(logits, temperature=0.0, top=1).run(isa)
    assert out["sampled"].tolist() == out["top"]["token"][:, 0].tolist()
    assert out["logprob"].tolist() == out["top"]["number"][:, 0].tolist()
    biased = make(logits, temperature=0.0, top=1, bias=[(5, 100.0)]).run(isa)
    assert (biased["sampled"] == 5).all() and biased["top"].tolist() == out["top"].tolist()


@each_isa
def test_ties_go_to_the_lowest_token(isa):
    logits = np.zeros((1, 100))
    logits[0, [20, 30, 40]] = 5
    assert make(logits, temperature=0.0).run(isa)["sampled"] == 20
    assert make(logits, top_k=1).run(isa)["sampled"] == 20
    listed = make(logits, top=5).run(isa)["top"]["token"]
    assert listed.tolist() == [[20, 30, 40, 0, 1]]
    drawn = {int(token) for token in make(np.repeat(logits, 64, 0), top_k=2).run(isa)["sampled"]}
    assert drawn == {20, 30}


@each_isa
def test_penalty_is_applied_once_to_each_token(isa):
    logits = np.array([[4.0, 3.0, 2.5, -1.0, -1.1]])
    how = {"temperature": 0.0, "repeat_penalty": 1.5}
    assert make(logits, np.array([0, 0, 0, 1]), **how).run(isa)["sampled"] == 0
    assert make(logits, np.array([0, 1]), temperature=0.0, repeat_penalty=2.0).run(isa)["sampled"] == 2
    negative = make(logits[:, 3:], np.array([0]), **how)  # a penalty makes a negative logit more negative
    assert negative.run(isa)["sampled"] == 1


@each_isa
def test_logits_that_are_not_finite(isa):
    """NaN is never chosen over a number; a row of nothing but NaN or -inf gives token 0."""
    for temperature in (0.0, 1.0):
        for row, expected in (
            ([np.nan] * 3, 0),
            ([-np.inf] * 3, 0),
            ([np.nan, -np.inf, 1.0], 2),
            ([0.0, np.inf, 9.0], 1),
        ):
            case = make(np.array([row]), temperature=temperature, top_p=0.9)
            assert case.run_native(isa) == 0
            assert case.outputs["sampled"][0] == expected


@each_isa
def test_unlikely_tokens_count(isa):
    """One token of weight 1 and 4000 of weight 5e-4: top_k = 2001 keeps half of the mass for the first."""
    logits = np.full((64, 4001), np.log(5e-4))
    logits[:, 0] = 0
    for filtered in ({"top_k": 2001}, {"top_p": 2 / 3}):
        drawn = make(logits, **filtered).run(isa)["sampled"]
        assert 12 <= (drawn == 0).sum() <= 52  # 32 expected, 5 standard deviations
        assert drawn.max() <= 2001


@each_isa
def test_draws_follow_the_distribution(isa):
    """64 x 40 draws; each frequency is within 5 standard deviations of what it should be."""
    p = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    cases = [
        ({}, 5),
        ({"top_k": 2}, 2),
        ({"top_p": 0.8}, 3),
        ({"min_p": 0.29}, 3),
        ({"top_k": 3, "top_p": 0.6}, 2),
        ({"temperature": 0.5}, 5),
    ]
    rows = np.repeat(np.log(p)[None], 64, 0)
    for how, kept in cases:
        expected = np.where(np.arange(5) < kept, p, 0) ** (1 / how.get("temperature", 1))
        expected /= expected.sum()
        drawn = np.concatenate([make(rows, seed=i, counter=64 * i, **how).run(isa)["sampled"] for i in range(40)])
        frequency = np.bincount(drawn, minlength=5) / len(drawn)
        deviation = np.sqrt(expected * (1 - expected) / len(drawn))
        assert (np.abs(frequency - expected) <= 5 * deviation).all()


def test_uniform_depends_on_seed_and_counter():
    numbers = np.array([[reference.uniform(seed, counter) for counter in range(200)] for seed in range(20)])
    assert len(np.unique(numbers)) == numbers.size
    assert numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(numbers)[0, 1:]).max() < 0.3
