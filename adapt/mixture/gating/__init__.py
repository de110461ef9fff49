"""The modules behind the routers: from a layer's input to scores, from scores to gates."""
