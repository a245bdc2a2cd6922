"""The figures, one module each; `bench.table` names them all."""
