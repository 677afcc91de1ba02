"""Things built directly on torch that know nothing of heads or cameras: operators and distribution."""
