#!/bin/bash
# A training stage on several nodes: sbatch --nodes 2 --gres gpu:8 configs/slurm.sh ppo CONFIG --zero 3
# One launcher per node, which starts one process per GPU. The run folder must lie on a disk that all nodes share.
#SBATCH --job-name rlhf
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 32
#SBATCH --time 24:00:00
#SBATCH --signal TERM@600
#SBATCH --output %x-%j.log

set -euo pipefail
STAGE=$1
CONFIG=$2
shift 2

ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Jobs that share a node take different ports.
PORT=$((20000 + SLURM_JOB_ID % 20000))
PROCESSES=${SLURM_GPUS_ON_NODE:-1}
NODES=$SLURM_NNODES
export STAGE CONFIG ADDRESS PORT PROCESSES NODES

# SLURM_NODEID is known on the nodes only. exec: the signal before the time limit must reach the launcher.
srun --kill-on-bad-exit=1 bash -c 'exec rlhf launch "$STAGE" "$CONFIG" --processes "$PROCESSES" \
  --nodes "$NODES" --rank "$SLURM_NODEID" --address "$ADDRESS" --port "$PORT" "$@"' rlhf "$@"
