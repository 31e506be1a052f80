"""What the pages promise: code that runs, links that lead somewhere, one version."""

import configparser
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vgg_jax
from tests.photographs import image_of

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


def test_the_citation_has_the_packages_version_and_license():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    package = configparser.ConfigParser(interpolation=None)
    package.read(ROOT / "setup.cfg")
    for key in ("version", "license"):
        assert citation[key] == package["metadata"][key]
