"""What a worker is where it runs as a container, on ECS above all. Nothing of it runs on a laptop, but for the checks.

    checks, starting      what must be there before the first message, waited for a while, and not in a crash loop
    memory                how much of the container's memory a child process may have
    draining              a stop that ends before ECS kills what is left
    protection, agent,    ECS task protection: taken before anything is received, given up regularly
    keeper
    children              what each child process gets before its first task
    init                  process 1: reaps and forwards

Pure: protection, memory, draining's `cut_after`. docs/containers.md describes it.
"""
