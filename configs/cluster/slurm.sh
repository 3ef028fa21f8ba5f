#!/usr/bin/env bash
# One run on the nodes of a Slurm allocation: sbatch configs/cluster/slurm.sh CONFIG [OVERRIDE...]
# Submit it where the checkout is, on a disk that the nodes share: docs/cluster.md, "On Slurm".
#SBATCH --job-name=headrace
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --output=headrace-%j.log

set -euo pipefail

config=${1:?wanted: sbatch configs/cluster/slurm.sh CONFIG [OVERRIDE...]}
shift
bin=${HEADRACE_BIN:-$PWD/.venv/bin}
export PATH="$bin:$PATH" RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}
export RAY_USAGE_STATS_ENABLED=0

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # that no process of an earlier job holds

# On every node, Ray; on the first, the command as well. When that ends, so does Ray.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
  -- headrace run "$config" ray.address=auto "$@"
