"""The page's modules that need no page, in node."""

import json
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

LATENTS = Path(__file__).parents[2] / "space_static" / "js" / "latents.js"
NODE = shutil.which("node")


needs_node = pytest.mark.skipif(NODE is None, reason="needs node: apt-get install nodejs npm")


@needs_node
def test_modules():
    done = subprocess.run(
        [NODE, "--test", Path(__file__).with_name("modules.test.mjs")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout


@needs_node
@pytest.mark.parametrize("length", [1, 7, 15, 16, 17, 40, 256, 1000])
def test_a_seed_is_the_latent_that_it_is_in_torch(length):
    seeds = [0, 1, 4294967295]
    code = f"import {{ latent }} from {json.dumps(LATENTS.as_uri())};"
    code += f"console.log(JSON.stringify({seeds}.map((seed) => [...latent(seed, {length})])));"
    done = subprocess.run([NODE, "--input-type=module"], input=code, capture_output=True, text=True, check=True)
    expected = torch.stack([torch.randn(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, atol=2e-6, rtol=0)


def test_a_showcase_is_told_to_the_page_by_ids(tmp_path):
    add_showcase = runpy.run_path(str(LATENTS.parents[2] / "scripts" / "build_static_space.py"))["add_showcase"]
    showcase, metadata = tmp_path / "showcase.json", tmp_path / "model.json"
    metadata.write_text('{"config": {}}')
    add_showcase(tmp_path, {"cat": 0, "dog": 1}, metadata)
    assert json.loads(metadata.read_text()) == {"config": {}}
    showcase.write_text('{"opening": [["dog", 4], ["unicorn", 1]], "designs": {"cat": [7, 2]}, "recognized": ["cat"]}')
    add_showcase(tmp_path, {"cat": 0, "dog": 1}, metadata)
    assert json.loads(metadata.read_text())["showcase"] == {"opening": [[1, 4]], "designs": {"0": [7, 2]}}
