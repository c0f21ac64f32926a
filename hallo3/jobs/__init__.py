"""What is finished of a video, kept so that nothing is rendered twice."""
