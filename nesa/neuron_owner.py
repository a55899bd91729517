"""Define the codes of who owns a neuron; code k >= 0 is the k-th claimed task."""

FREE, INPUT, PORT = -1, -2, -3
