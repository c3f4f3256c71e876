"""Every family that the models know has its record and its cases, and one without is named."""

import pytest
from families import FAMILIES
from logit_cases import GOLDEN, SPARSE, WITH_EXPERTS
from model_configs import CONFIGS
from tiny import write_checkpoint

from ellm.models import ARCHITECTURES


def test_every_architecture_has_its_record_and_its_cases():
    assert {name: known.family for name, known in ARCHITECTURES.items()} == {
        record.architecture: record.model_type for record in FAMILIES
    }
    assert {arguments["architecture"] for arguments in GOLDEN.values()} == set(ARCHITECTURES)
    assert {config["architectures"][0] for config in CONFIGS.values()} == set(ARCHITECTURES)


def test_families_with_experts_say_how_their_router_weighs_and_run_as_sparse_models():
    assert all((record.experts is None) == (record.router is None) for record in FAMILIES)
    assert set(WITH_EXPERTS) & set(GOLDEN) <= set(SPARSE)


def test_a_family_without_a_record_is_named(tmp_path):
    with pytest.raises(LookupError, match=r"families.py has no record of 'NewForCausalLM', only of Llama"):
        write_checkpoint(tmp_path, "NewForCausalLM")
