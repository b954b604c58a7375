"""What the case of TensorRT-LLM is made of: the engine, its stream of tokens, its gates, its processes."""
