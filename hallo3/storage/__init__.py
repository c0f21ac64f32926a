"""Files that are whole or not there, whatever stops the program, on any system."""
