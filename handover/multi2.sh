cd /work/wt/multi
echo -17 > /proc/self/autogroup
export OMP_NUM_THREADS=1 PYTHONPATH=/work/wt/multi
exec .venv/bin/accelerate launch --config_file /work/bg/two.yaml -m vla_align_ros.cli.main train --config config/train/multi.yaml --run /work/bg/runs/multi "$@"
