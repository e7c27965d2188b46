"""Helpers of the tests: stages that exist only here, a tiny engine on quadratics, slow references."""
