// arrived.cuh: in front of the kernels that call it: mbarrier_wait that gives up, as a case that hangs costs the others time.
__device__ bool arrived(unsigned long long *barrier, unsigned parity)
{
    for (int i = 0; i < 1024; i++)
        if (mbarrier_try_wait(barrier, parity)) return true;
    return false;
}

