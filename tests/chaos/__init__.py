"""What stays true while processes are killed, stopped and cut off."""
