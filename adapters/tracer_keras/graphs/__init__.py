"""TensorFlow graphs without Keras: frozen ``.pb`` files and SavedModel directories.

A graph is read as data, cut down to what its outputs need, checked against a list of operations that only compute,
and run by a session; name scopes turn its operations into layers.
"""
