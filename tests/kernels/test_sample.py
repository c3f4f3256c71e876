"""sample against its reference, and against the distribution that it must draw from."""

import numpy as np
from harness import Case, each_isa, for_cases
from hypothesis import strategies as st

from ellm.kernels import reference
from ellm.kernels.contract import SAMPLING

seeds = st.integers(0, 2**63)
OFF = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "top_k": 0, "seed": 0, "counter": 0}


def make(logits: np.ndarray, history: np.ndarray | None = None, **how) -> Case:
    """Each row of logits [rows, vocab] sampled in the same way, at counters that go up by one."""
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
    case.step.sampled = case.written("sampled", (rows,), np.int32)
    case.step.logprob = case.written("logprob", (rows,), np.float32)
    return case


def allowed(logits: np.ndarray, how: np.void) -> set[int]:
    """The tokens that may be drawn if p and its sums are only right to 1e-5."""
    w = reference.penalised(np.where(np.isnan(logits), -np.inf, logits).astype(np.float64), how)
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


@each_isa
def test_ties_go_to_the_lowest_token(isa):
    logits = np.zeros((1, 100))
    logits[0, [20, 30, 40]] = 5
    assert make(logits, temperature=0.0).run(isa)["sampled"] == 20
    assert make(logits, top_k=1).run(isa)["sampled"] == 20
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
