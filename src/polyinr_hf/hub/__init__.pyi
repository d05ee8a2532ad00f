# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from .model_card import create_card as create_card, published_results as published_results
from .push import (
    SHARED_FILES as SHARED_FILES,
    check_pipeline_folder as check_pipeline_folder,
    check_repo_id as check_repo_id,
    describe_training as describe_training,
    push_folder as push_folder,
    push_pipeline as push_pipeline,
    redact as redact,
    shared_files as shared_files,
)
from .showcase import read_showcase as read_showcase
