"""int8 weights by torchao and LoRA by peft, by their usual calls. Neither is needed otherwise: skipped where absent."""

from pathlib import Path

import pytest
import torch

from polyinr_hf import PolyINRPipeline

BUNDLED = Path(__file__).resolve().parents[2] / "pretrained" / "poly-inr-emoji"
pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that this repository does not pin


def open_pipeline(**kwargs) -> PolyINRPipeline:
    pipe = PolyINRPipeline.from_pretrained(BUNDLED, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe) -> torch.Tensor:
    seed = torch.Generator().manual_seed(3)
    return pipe("penguin", height=32, width=32, generator=seed, output_type="pt").images


def psnr(image, expected) -> float:
    return -10 * torch.log10((image.float() - expected).square().mean()).item()


def test_torchao_int8_weights():
    quantization = pytest.importorskip("torchao.quantization")
    pipe = open_pipeline()
    expected, weights = draw(pipe), pipe.generator.synthesis_levels[1].weight
    quantization.quantize_(pipe.generator, quantization.Int8WeightOnlyConfig())
    assert type(pipe.generator.synthesis_levels[1].weight) is not type(weights)
    assert psnr(draw(pipe), expected) > 38


def test_diffusers_opens_with_int8_weights():
    quantization = pytest.importorskip("torchao.quantization")
    from diffusers import TorchAoConfig

    from polyinr_hf import PolyINRGenerator

    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    generator = PolyINRGenerator.from_pretrained(BUNDLED / "generator", quantization_config=config, dtype=torch.float32)
    assert psnr(draw(open_pipeline(generator=generator)), draw(open_pipeline())) > 38


@pytest.mark.parametrize("modules", ["all-linear", r"synthesis_levels\.[1-9]"])
def test_peft_lora(modules):
    peft = pytest.importorskip("peft")
    pipe = open_pipeline()
    expected = draw(pipe)
    model = peft.get_peft_model(pipe.generator, peft.LoraConfig(r=4, target_modules=modules))
    assert torch.equal(draw(pipe), expected)  # its B matrices start at zero
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(".synthesis_levels." in name for name in trained) == 2 * 9
    optimizer = torch.optim.Adam(trained.values(), 1e-3)
    z, labels = torch.randn(1, 256, generator=torch.Generator().manual_seed(0)), torch.tensor([1])
    for _ in range(2):
        loss = (model(z, labels, 8, 8).sample - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(z, labels, 8, 8).sample - 1).square().mean() < loss
