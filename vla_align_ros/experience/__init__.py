"""What the robot lived through: `builder` (messages and chunks -> experiences), `buffer` (the newest ones), `bag` (the
same from a recording), `recorder` (makes a recording)."""
