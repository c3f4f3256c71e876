"""`ellm plan --requests`: a trace is served by the engine's policy, in steps that take what is predicted."""

import json

import pytest
from typer.testing import CliRunner

from ellm import InputError
from ellm.cli.main import app
from ellm.compiled import Options, Source, compile_model
from ellm.machine import description
from ellm.predict.planner import Planner
from ellm.predict.step_seconds import StepSeconds
from ellm.predict.traffic import percentiles

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def plan(folder, trace, *options):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if trace is not None:
        (folder / "trace").write_text(trace if isinstance(trace, str) else "\n".join(map(json.dumps, trace)))
    command = ["plan", str(folder), "--machine", "xeon-8480plus", "--requests", str(folder / "trace"), *options]
    return CliRunner().invoke(app, command)


def line(output, name):
    (found,) = [line.split() for line in output.splitlines() if line.startswith(name)]
    return found[1:]


def test_the_report(tmp_path):
    trace = [{"arrival": 0.01 * at, "prompt": 300, "output": 20} for at in range(10)]
    trace += [{"arrival": 0, "prompt": 2000, "output": 1, "class": "batch"}]
    result = plan(tmp_path, trace)
    assert result.exit_code == 0, result.output
    quick, slow = (list(map(float, line(result.output, name)[:2])) for name in ("interactive", "batch"))
    assert 0 < quick[0] <= quick[1] and 0 < slow[0] == slow[1]
    assert line(result.output, "batch")[2:] == ["-"] * 4, "one token has no gaps"
    assert "11 REQUESTS" in result.output and "0 times a request was sent back" in result.output
    assert "STEP" not in result.output


def test_a_class_without_requests(tmp_path):
    result = plan(tmp_path, [{"arrival": 0, "prompt": 5, "output": 2}])
    assert line(result.output, "batch") == ["none"]


@pytest.mark.parametrize(
    "trace, complaint",
    [
        ("", "no requests in it"),
        ('{"arrival": 0', "line 1: not JSON"),
        ("[1]", r"line 1: \[1\] is not an object with arrival, prompt, output, class"),
        (
            [{"arrival": 0, "prompt": 1, "output": 1}, {"arrival": -1, "prompt": 1, "output": 1}],
            "line 2: arrival must .* not -1",
        ),
        ([{"prompt": 1, "output": 1}], "arrival must be seconds from 0 on, not None"),
        ('{"arrival": NaN, "prompt": 1, "output": 1}', "arrival must be seconds from 0 on, not nan"),
        ([{"arrival": 0, "prompt": 0, "output": 1}], "prompt must be a number of tokens, not 0"),
        ([{"arrival": 0, "prompt": 1, "output": True}], "output must be a number of tokens, not True"),
        ([{"arrival": 0, "prompt": 4000, "output": 97}], r"4000 \+ 97 tokens: this model has 4096 positions"),
        ([{"arrival": 0, "prompt": 1, "output": 1, "class": "x"}], "class must be interactive or batch, not 'x'"),
        ([{"arrival": 0, "prompt": 1, "output": 1, "clas": "x"}], "'clas' is none of arrival, prompt, output, class"),
        (None, "trace: No such file"),
    ],
)
def test_a_bad_trace_is_one_line(tmp_path, trace, complaint):
    result = plan(tmp_path, trace)
    assert isinstance(result.exception, InputError)
    with pytest.raises(InputError, match=complaint):
        raise result.exception
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("option", [("--context", "9"), ("--prompt", "9"), ("--expanded-prefill",)])
def test_options_of_one_prompt_are_refused(tmp_path, option):
    result = plan(tmp_path, [{"arrival": 0, "prompt": 1, "output": 1}], *option)
    assert isinstance(result.exception, InputError) and f"--requests and {option[0]}" in str(result.exception)


def test_steps_take_what_is_simulated():
    source = Source(CONFIG)
    planner = Planner(
        lambda dtype: compile_model(source, Options(context=4096)).program, description.load("xeon-8480plus")
    )
    seconds = StepSeconds(planner, 64, 4000)
    assert seconds([(0, 512)]) == pytest.approx(planner.prefill(512).ms / 1e3, rel=0.05)
    assert seconds([(3000, 1)]) == pytest.approx(planner.decode(3000).ms / 1e3, rel=0.3)
    assert seconds([(0, 1)]) < seconds([(0, 1)] * 64) < seconds([(0, 1)] * 64 + [(0, 512)])
    assert seconds([(0, 256)]) < seconds([(3000, 256)])


def test_percentiles_are_values():
    assert percentiles([3.0, 1.0, 2.0], 50, 99) == [2.0, 3.0]
    assert percentiles(range(1, 201), 50, 99) == [100, 198]
