"""What a tuned model says: answers, how good they are, and a talk in the terminal."""
