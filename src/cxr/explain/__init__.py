"""What in a film a network's answer rests on: heat maps, where they lie on the film, and pictures of them. Stands above `model` and `data`."""
