"""What the two services of a host share: their context, the facts they write, their inbox."""
