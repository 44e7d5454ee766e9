"""What is written while a run lasts, and how it resumes."""
