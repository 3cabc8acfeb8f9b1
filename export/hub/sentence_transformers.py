"""Files for sentence-transformers: backbone by transformers, head as Dense, and Normalize if the metric is cosine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from zoo.errors import ModelError
from zoo.files import replacing, write_json
from zoo.models.facts import COSINE, facts_of
from zoo.models.network import linear_head_of

_TYPES = "sentence_transformers.models."  # where its versions 3 to 6 find these modules


def write_sentence_transformers(model: nn.Module, folder: Path) -> None:
    """Write ``modules.json`` and the files it names next to the model's own files.

    Args:
        model: the network, whose head is one linear layer.
        folder: the folder it was saved to.

    Raises:
        ModelError: the head is not one linear layer.
    """
    head = linear_head_of(model)
    if head is None:
        raise ModelError("The head is not one linear layer, which sentence-transformers needs.")
    metric = facts_of(model).metric
    modules = [("", "Transformer"), ("1_Dense", "Dense")]
    if metric == COSINE:
        modules.append(("2_Normalize", "Normalize"))
    weight = head.weight.detach().flatten(1).contiguous()
    tensors = {"linear.weight": weight} | ({} if head.bias is None else {"linear.bias": head.bias.detach()})
    with replacing(folder / "1_Dense" / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    dense = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": head.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / "1_Dense" / "config.json", dense)
    if metric == COSINE:
        write_json(folder / "2_Normalize" / "config.json", {"module_input_name": "sentence_embedding"})
    pooled = {"image": {"method": "forward", "method_output_name": "pooler_output"}}
    transformer: dict[str, Any] = {"transformer_task": "feature-extraction", "modality_config": pooled}
    transformer["module_output_name"] = "sentence_embedding"
    # From a hub, transformers would use preprocessor_config.json, which rounds crops differently.
    transformer["processor_kwargs"] = {"image_processor_filename": "config.json"}
    write_json(folder / "sentence_bert_config.json", transformer)
    about = {"model_type": "SentenceTransformer", "similarity_fn_name": metric, "prompts": {}}
    write_json(folder / "config_sentence_transformers.json", about)
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": _TYPES + kind}
            for index, (path, kind) in enumerate(modules)
        ],
    )
