"""The formats in which weights of VGG are published, a module each."""
