"""launch/jobset.yaml against the schema of jobset.x-k8s.io/v1alpha2, as Kubeflow's client has it."""

from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from pydantic import ValidationError

JOBSET = Path(__file__).parents[2] / "launch/jobset.yaml"


def test_the_jobset_is_one_by_its_schema():
    jobset = yaml.safe_load(JOBSET.read_text())
    assert JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset  # the client drops what the schema does not know


def test_the_schema_refuses_another_jobset():
    jobset = yaml.safe_load(JOBSET.read_text())
    jobset["spec"]["failurePolicy"]["maxRestarts"] = "often"
    with pytest.raises(ValidationError, match="maxRestarts"):
        JobsetV1alpha2JobSet.from_dict(jobset)
    jobset["spec"]["failurePolicy"] = {"restarts": 10}
    assert JobsetV1alpha2JobSet.from_dict(jobset).to_dict() != jobset
