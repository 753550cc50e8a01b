#!/bin/bash
# SEANet-20 on one node of eight GPUs, one process for each: sbatch examples/slurm.sh
#
# Submit it from the repository's folder, on a file system that all nodes see, with README's environment in .venv.
# Submit it again after the time limit or a failure, and it resumes from the newest checkpoint.
#SBATCH --job-name=seanet
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
# Two minutes before the limit every process gets SIGTERM, upon which the run writes a checkpoint and ends.
#SBATCH --signal=TERM@120
#SBATCH --output=seanet-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

out=runs/cifar100-seanet20-slurm
# Eight times the published batch size and, by the linear rule of Goyal et al. (2017), eight times the learning rate.
# This has not been measured with SEANet.
flags=(--batch-size 512 --learning-rate 0.8 --dtype bfloat16 --require-gpu --out "$out")
if [ -d "$out" ]; then
  flags+=(--resume)
fi

# If one process fails, --kill-on-bad-exit ends the others at once; JAX would end them within a minute.
srun --kill-on-bad-exit=1 .venv/bin/python experiments/cifar100.py --distributed "${flags[@]}"
