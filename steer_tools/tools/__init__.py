"""The tools, one file each, and the explicit list of them that every face loops over.

A tool resolves its arguments, calls one room and returns a JSON-safe dict. What it calls is imported when it is called,
so that whoever only reads signatures does not wait for torch.
"""

import sys

from steer_tools.tools.ablate_component import ablate_component as ablate_component
from steer_tools.tools.analyze_steering_vector import analyze_steering_vector as analyze_steering_vector
from steer_tools.tools.apply_steering_vector import apply_steering_vector as apply_steering_vector
from steer_tools.tools.audit_checkpoint import audit_checkpoint as audit_checkpoint
from steer_tools.tools.calibrate_strength import calibrate_strength as calibrate_strength
from steer_tools.tools.card import Card as Card
from steer_tools.tools.card import Tool as Tool
from steer_tools.tools.check_steering import check_steering as check_steering
from steer_tools.tools.combine_steering_vectors import combine_steering_vectors as combine_steering_vectors
from steer_tools.tools.compare_generations import compare_generations as compare_generations
from steer_tools.tools.compare_next_tokens import compare_next_tokens as compare_next_tokens
from steer_tools.tools.create_steering_vector import create_steering_vector as create_steering_vector
from steer_tools.tools.evaluate_steering_robustness import evaluate_steering_robustness as evaluate_steering_robustness
from steer_tools.tools.find_best_layer import find_best_layer as find_best_layer
from steer_tools.tools.generate import generate as generate
from steer_tools.tools.load_model import load_model as load_model
from steer_tools.tools.patch_activations import patch_activations as patch_activations
from steer_tools.tools.project_activations import project_activations as project_activations
from steer_tools.tools.remove_all_steering_vectors import remove_all_steering_vectors as remove_all_steering_vectors
from steer_tools.tools.remove_steering_vector import remove_steering_vector as remove_steering_vector
from steer_tools.tools.save_activations import save_activations as save_activations
from steer_tools.tools.save_edited_model import save_edited_model as save_edited_model
from steer_tools.tools.show_tokens import show_tokens as show_tokens
from steer_tools.tools.steering_experiment import steering_experiment as steering_experiment
from steer_tools.tools.steering_status import steering_status as steering_status
from steer_tools.tools.sweep_steering import sweep_steering as sweep_steering
from steer_tools.tools.update_steering_vector import update_steering_vector as update_steering_vector
from steer_tools.tools.verify_steering_vector import verify_steering_vector as verify_steering_vector

# Each tool's file ends with its `TOOL`.
TOOLS: tuple[Tool, ...] = tuple(
    vars(sys.modules[function.__module__])["TOOL"]
    for function in (
        steering_status,
        create_steering_vector,
        combine_steering_vectors,
        apply_steering_vector,
        compare_generations,
        compare_next_tokens,
        steering_experiment,
        verify_steering_vector,
        sweep_steering,
        find_best_layer,
        evaluate_steering_robustness,
        calibrate_strength,
        analyze_steering_vector,
        project_activations,
        save_activations,
        ablate_component,
        patch_activations,
        generate,
        check_steering,
        show_tokens,
        update_steering_vector,
        remove_steering_vector,
        remove_all_steering_vectors,
        save_edited_model,
        audit_checkpoint,
        load_model,
    )
)
