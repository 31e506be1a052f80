"""The one package that uses TensorFlow: sources, decoding, cropping (Sec. 3.1, 3.2)."""
