"""What the lean cases are made of: model, weights, kernels, dynamic ops, graphs."""
