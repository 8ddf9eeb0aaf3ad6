"""The figures that Mailtape holds itself to, measured on real programs in one run: `make bench`.

Rates are ratios to Postfix's `smtp-sink`, asked alternately with the server by the same client, so
that a slow or a noisy machine hits both alike. Everything runs on loopback against a server that
the bench starts itself, on a data folder that it removes again. Nothing here fails on a slow
figure: people judge them.
"""
