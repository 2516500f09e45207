"""A run on several machines: the same train.sh is started on each of them.

Ray (RL) and torchrun (SFT, DPO) carry all tensors. This package brings the launchers together: they compare their
machines before anything starts, take over the knobs that the first machine has resolved, and watch each other until
the end.

=============  ====================================================================================
module         what it holds
=============  ====================================================================================
``names``      which machine of how many this is: NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT
``network``    this machine's address and interface on the way to the others
``board``      keys and values that all launchers see: torch's TCPStore with time limits
``facts``      what a machine has: versions, commit, GPUs, clock, memory, sizes of files
``compare``    what differs between machines, in words
``meeting``    the launchers meet, compare, and start together or not at all
``joined``     the same for the machines of a Ray that is there already
``variables``  what each machine sets for itself
``watch``      heartbeats, reports and the end while a run is under way
``ray_node``   one machine's part of a Ray that lives as long as a run
``run_secrets``  Ray's token and TransferQueue's keys
=============  ====================================================================================
"""
