"""PI0 as a ROS 2 lifecycle node that aligns itself to the robot it runs on."""
