"""What a robot's numbers mean: `description` (the fields of state and action, as `model.yaml` says them), `units`
(the model's numbers <-> ROS's)."""
