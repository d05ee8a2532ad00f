"""Sharing on the Hugging Face Hub: which files of a pipeline folder, how they get there, and their model card."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".push": (
            "SHARED_FILES",
            "check_pipeline_folder",
            "check_repo_id",
            "describe_training",
            "push_folder",
            "push_pipeline",
            "redact",
            "shared_files",
        ),
        ".model_card": ("create_card", "published_results"),
    },
)
