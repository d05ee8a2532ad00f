"""diffusers' own tests on our classes. pytest does not collect this file: scripts/run_diffusers_testers.py does.

Not here, as nothing of ours is like it: attention, caching, IP adapters, single files, schedulers, text encoders. Int8
weights, LoRA (test_quantization.py) and a device_map (test_modeling_poly_inr.py) are tested in our own way. Group
offloading is refused, by name. Tests of an accelerator's memory or of several of them need those.
"""

import pytest
import torch
from tests.models.testing_utils.common import BaseModelTesterConfig, ModelTesterMixin
from tests.models.testing_utils.compile import TorchCompileTesterMixin
from tests.models.testing_utils.training import TrainingTesterMixin
from tests.pipelines.testing_utils.common import BasePipelineTesterConfig, PipelineTesterMixin
from tests.testing_utils import torch_device

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

SIZES = {"z_dim": 8, "w_dim": 16, "channels": 16, "num_levels": 4, "num_classes": 4, "class_embed_dim": 8}


class ModelConfig(BaseModelTesterConfig):
    model_class = PolyINRGenerator
    output_shape = (3, 8, 8)
    different_shapes_for_compilation = [(4, 4), (4, 8), (8, 8)]

    def get_init_dict(self):
        return SIZES | {"sample_size": 8}

    def get_dummy_inputs(self, height=8, width=8):
        z = torch.randn(2, SIZES["z_dim"], generator=torch.Generator().manual_seed(0)).to(torch_device)
        labels = torch.tensor([1, 3], device=torch_device)
        return {"z": z, "class_labels": labels, "height": height, "width": width}


class TestModel(ModelConfig, ModelTesterMixin):
    pass


class TestModelCompile(ModelConfig, TorchCompileTesterMixin):
    pass


class TestModelTraining(ModelConfig, TrainingTesterMixin):
    def test_gradient_checkpointing_is_applied(self):
        super().test_gradient_checkpointing_is_applied(expected_set={"PolyINRGenerator"})


class TestPipeline(BasePipelineTesterConfig, PipelineTesterMixin):
    pipeline_class = PolyINRPipeline
    required_input_params_in_call_signature = frozenset({"class_labels", "truncation_psi", "height", "width", "extent"})
    optional_input_params = frozenset({"num_images_per_label", "generator", "latents", "output_type", "return_dict"})
    batch_input_params = frozenset({"class_labels"})
    output_shape = (3, 8, 8)

    @pytest.fixture(autouse=True)
    def trust_pickles(self, monkeypatch):
        """The tests save pickles and open them without saying that they trust them, which our pipeline asks for."""
        opened = PolyINRPipeline.from_pretrained.__func__

        def from_pretrained(cls, path, **kwargs):
            return opened(cls, path, **{"use_safetensors": False} | kwargs)

        monkeypatch.setattr(PolyINRPipeline, "from_pretrained", classmethod(from_pretrained))

    def get_dummy_components(self):
        torch.manual_seed(0)
        return {"generator": PolyINRGenerator(**SIZES, sample_size=8)}

    def get_dummy_inputs(self):
        return {"class_labels": 1, "generator": self.get_generator(), "truncation_psi": 0.7, "output_type": "pt"}

    def test_inference_batch_single_identical(self):  # there are no inference steps
        super().test_inference_batch_single_identical(additional_params_copy_to_batched_inputs=[])

    @pytest.mark.skipif(torch_device == "cpu:0", reason="compares names of devices, and there is one, by two names")
    def test_to_device(self):
        super().test_to_device()
