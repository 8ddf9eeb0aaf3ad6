"""Workers: they take accepted mail from the queue, understand it and store it."""
