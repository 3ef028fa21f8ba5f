"""The tiny pair: a generated family of word problems, and the scripts that train a policy and a streaming PRM on it."""
