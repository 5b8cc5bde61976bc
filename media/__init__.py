"""Files of pictures and video: readers and writers of frames."""
