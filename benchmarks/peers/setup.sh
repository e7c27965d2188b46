#!/bin/sh
# Makes the environment of one contender, or of all:  sh benchmarks/peers/setup.sh [flower pfl fedjax jax blazefl]
#
# They are made in $HEADWAY_PEERS (~/.cache/headway-peers) with $PYTHON (python3).  Those that use PyTorch get the
# version in $TORCH; where only a build without CUDA is wanted, say so in pip's own way (PIP_INDEX_URL and the like).
# JAX=jax[cuda12] lets those that use JAX train on a GPU.
set -eu

HOME_OF_PEERS=${HEADWAY_PEERS:-$HOME/.cache/headway-peers}
TORCH=${TORCH:-torch==2.13.0}
JAX=${JAX:-jax}
[ $# -gt 0 ] || set -- flower pfl fedjax jax blazefl

for name in "$@"; do
    environment=$HOME_OF_PEERS/$name
    install="$environment/bin/python -m pip install --quiet"
    echo "$name: $environment"
    "${PYTHON:-python3}" -m venv "$environment"
    case $name in
        flower) $install "$TORCH" numpy "flwr[simulation]==1.41.0" ;;
        pfl) $install "$TORCH" numpy "pfl[pytorch]==0.6.0" ;;
        fedjax) $install "$JAX==0.5.3" "jaxlib==0.5.3" "fedjax==0.0.17" ;;  # it uses what later releases removed
        jax) $install "$JAX==0.10.2" ;;
        blazefl)
            # it asks for Python 3.12, but what is used of it here runs with 3.11
            $install "$TORCH" numpy
            $install --no-deps --ignore-requires-python "blazefl==2.0.3" ;;
        *) echo "no contender is named $name" >&2; exit 2 ;;
    esac
done
