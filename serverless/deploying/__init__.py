"""Deploying the web side: what zappa_settings.json says of a stage, what Terraform has made for it, and Zappa.

    make deploy STAGE=dev        make undeploy STAGE=dev        make maintenance STAGE=production STATE=on

Nothing here is part of the package that Lambda runs.
"""
