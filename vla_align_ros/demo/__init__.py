"""What `vla-align demo` is made of: child processes, the comparison of live and offline, the report. No ROS here."""
