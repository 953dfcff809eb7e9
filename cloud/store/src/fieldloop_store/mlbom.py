"""A model's bill of materials (CycloneDX 1.6 ML-BOM), from its manifest alone.

Pure. Says what the model is, what it was made from (dataset and parent by digest, recipe, code),
what it scored and needs to run: all from the signed manifest, nothing is typed in.
"""

from __future__ import annotations

import uuid
from typing import Any

from fieldloop_contract.manifest import Manifest

_NAMESPACE = uuid.UUID("c0d6e2a4-5b4c-4d4e-8a52-2f7f0f7c9b10")


def ml_bom(manifest: Manifest, digest: str) -> dict[str, Any]:
    """The bill of one version.

    Args:
        digest: sha256 of the manifest's bytes, by which the version is known.
    """
    name, version, lineage = manifest.name, str(manifest.version), manifest.lineage
    reference = f"{name}@{version}"
    inputs = [f"{i.name}: {len(i.channels)} channels at {i.rate_hz:g} Hz" for i in manifest.inputs]
    outputs = [f"{o.name}: {o.kind}" for o in manifest.outputs]
    parameters: dict[str, Any] = {
        "inputs": [{"format": text} for text in inputs],
        "outputs": [{"format": text} for text in outputs],
    }
    if lineage.dataset:
        parameters["datasets"] = [{"ref": "dataset"}]
    metrics = [
        {"type": f"{group}.{key}", "value": f"{value:g}"}
        for group, values in sorted(lineage.metrics.items())
        for key, value in sorted(values.items())
    ]
    files = [
        {
            "type": "file",
            "bom-ref": f"{reference}/{file}",
            "name": file,
            "hashes": [{"alg": "SHA-256", "content": ref.sha256}],
        }
        for file, ref in sorted(manifest.files.items())
    ]
    model = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": name,
        "version": version,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "modelCard": {
            "modelParameters": parameters,
            "quantitativeAnalysis": {"performanceMetrics": metrics},
        },
        "properties": [
            {"name": f"fieldloop:{key}", "value": value}
            for key, value in (
                ("run", lineage.run),
                ("recipe", lineage.recipe),
                ("code", lineage.code),
                ("parent", lineage.parent.digest if lineage.parent else ""),
                *(("runtime", f"{k} {v}") for k, v in sorted(manifest.requires.runtimes.items())),
            )
            if value
        ],
    }
    components: list[dict[str, Any]] = [*files]
    if lineage.dataset:
        components.append(
            {
                "type": "data",
                "bom-ref": "dataset",
                "name": "dataset",
                "hashes": [{"alg": "SHA-256", "content": lineage.dataset}],
            }
        )
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}",
        "version": 1,
        "metadata": {"component": model},
        "components": components,
        "dependencies": [
            {"ref": reference, "dependsOn": [c["bom-ref"] for c in components]},
        ],
    }
