#!/usr/bin/env bash
# One run over several processes of a Slurm cluster, for as long as it takes:
#
#     sbatch examples/slurm/one_run.sh cifar10 --data-dir DIR --workdir /shared/run
#
# The arguments are those of `python -m dgm_jax learn`. All hosts need this folder, the data, the compiled programs
# (~/.cache, or $JAX_COMPILATION_CACHE_DIR) and --workdir. Options of sbatch, e.g. --time=240, go before the script.

#SBATCH --job-name=dgm_jax
#SBATCH --nodes=2 --ntasks-per-node=1
#SBATCH --time=60
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=dgm_jax-%j.log --open-mode=append

# --nodes, --ntasks-per-node: one process for each GPU; add --gpus-per-node, and never --gpus-per-task.
# --time: in minutes. Short limits start sooner, and cost only the seconds of a start.
# --signal: SIGTERM comes so many seconds before the limit. All processes then save at the end of the same epoch, so
#   allow for three epochs at least.
# --requeue: where a node fails, Slurm starts the job again, and the run continues from its last checkpoint.

trap : TERM # At the limit this shell, too, gets SIGTERM; it waits until all processes have ended.
srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} python -m dgm_jax learn "$@" --distributed
status=$?
# It was stopped, and has saved if its epoch ended in time. If its time was up, the job goes back to the queue. Where no
# epoch fits into the time, this goes on for ever: end it with scancel, and give it more --time.
if [ "$status" -eq 143 ]; then
  case $(scontrol show job --oneliner "$SLURM_JOB_ID") in
    *JobState=RUNNING* | *Reason=TimeLimit*) scontrol requeue "$SLURM_JOB_ID" ;;
  esac
fi
exit "$status"
