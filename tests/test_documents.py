"""What the pages promise: code that runs, links that lead somewhere, one version."""

import configparser
import math
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vgg_jax
from tests.photographs import image_of
from vgg_jax.main import MODES

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def test_the_library_in_fifteen_lines_runs(tiny_net, tmp_path, monkeypatch, capsys):
    net = tiny_net("D", crop=64)
    net.classes = tuple("abcdefghij")
    vgg_jax.save_torchvision(net, tmp_path / "vgg16.safetensors")
    Image.fromarray(image_of((80, 100), 0)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"## The library\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    printed = re.findall(r"^ *([\d.]+)%  ([a-j])$", capsys.readouterr().out, re.MULTILINE)
    best = np.argsort(-names["posteriors"][0])[:5]
    assert [name for _, name in printed] == ["abcdefghij"[number] for number in best]
    assert names["features"]["relu7"].shape == (1, 256) and names["heat"].ndim == 2
    assert names["scores"].shape == (1, 1, 1, 10) and names["taps"]["conv3_2"].shape == (1, 16, 16, 64)


def test_the_readme_is_read_in_a_few_minutes():
    assert len((ROOT / "README.md").read_text().split()) < 1_500


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_jobset_asks_for_the_hosts_of_its_slice_and_gives_flags_that_there_are():
    (replicated,) = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    hosts = math.prod(map(int, topology.split("x"))) // chips
    assert hosts == job["parallelism"] == job["completions"] and job["backoffLimit"] == 0
    command, *given = container["command"]
    assert command == "vgg_jax" and {flag.lstrip("-").split("=")[0] for flag in given} <= {*MODES["train"].flags}
    exits = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert exits == [{"containerName": container["name"], "operator": "In", "values": [128 + signal.SIGTERM]}]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_citation_has_the_packages_version_and_license():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    package = configparser.ConfigParser(interpolation=None)
    package.read(ROOT / "setup.cfg")
    for key in ("version", "license"):
        assert citation[key] == package["metadata"][key]
